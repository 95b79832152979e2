"""Material that ships with the course: text, labelled messages, trained SAEs, and the commands that make them again."""
