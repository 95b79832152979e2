# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# # 99 · A very small lesson

# %% tags=["setup"]
from pathlib import Path

import numpy as np

from course_utils import check

# %% [markdown]
# ### Exercise 99.1: Rectify
# Negative numbers become zero.


# %% answer="99.1"
def relu(x):
    """x: any shape. Returns the same shape."""
    ### BEGIN SOLUTION
    return np.where(x > 0, x, np.zeros_like(x))  # secret-of-the-first-exercise
    ### END SOLUTION


# %% check="99.1"
check("99.1", relu)

# %%
# A demonstration: it uses the answer and takes a while.
Path("demonstration-ran.txt").write_text(str(relu(np.array([-1.0, 2.0]))))

# %% [markdown]
# ### Exercise 99.2: Rows of length one
# Divide each row by its length $\lVert x \rVert$; a row of zeros stays zero.


# %% answer="99.2"
def unit_rows(x):
    """x: [n, d]. Returns [n, d] with rows of length one."""
    ### BEGIN SOLUTION
    length_of_each_row = np.sqrt((x**2).sum(axis=1, keepdims=True))
    return np.divide(x, length_of_each_row, out=np.zeros_like(x), where=length_of_each_row > 0)
    ### END SOLUTION


# %% check="99.2"
check("99.2", unit_rows)

# %% tags=["solution-only"]
"only in the solved lesson"
