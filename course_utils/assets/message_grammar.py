"""Sentences of the labelled customer messages: ways to express each concept, and ways to mention it without meaning it.

`[a|b|c]` is a choice, `{name}` a slot. Every pool is given twice, for training and for held-out messages, with no template
in common. A *counter* uses the words of its concept in a message to which the concept does not apply ("I do not want my
money back"), so that no word alone gives the label away.
"""

from __future__ import annotations

from dataclasses import dataclass

CONCEPTS = ("refund", "delay", "anger", "price", "order_value", "politeness")


@dataclass(frozen=True)
class Pool:
    """Sentences that express a concept, and counters that only mention it."""

    express: tuple[str, ...]
    counter: tuple[str, ...]


SLOTS: dict[str, tuple[str, ...]] = {
    "product": (
        "kettle", "desk lamp", "winter coat", "bookshelf", "blender", "pair of boots", "tablet", "garden hose", "rice cooker",
        "yoga mat", "camera bag", "office chair", "board game", "electric toothbrush", "tent", "coffee grinder", "monitor",
        "violin case", "bread maker", "bicycle pump",
    ),
    "other": ("cushion covers", "batteries", "phone cases", "curtains", "mugs", "printer ink", "notebooks", "light bulbs"),
    "weekday": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"),
    "month": ("January", "March", "April", "June", "August", "October", "December"),
    "city": ("Leeds", "Porto", "Denver", "Lyon", "Hamburg", "Toronto", "Osaka", "Cork", "Austin", "Oslo"),
    "name": ("Sam", "Priya", "Jonas", "Maria", "Wei", "Amina", "Tom", "Ines", "Yuki", "Carlos", "Helen", "Omar"),
    "days": ("three", "four", "five", "six", "nine", "ten", "twelve"),
    "weeks": ("two", "three", "four", "five"),
    "number": ("20418", "77310", "55126", "90233", "31874", "64409", "12885"),
    "small": ("4", "6", "8", "11", "15", "19"),
}  # fmt: skip

AMOUNT_FORMS = ("${a}", "${a}", "{a} dollars", "{a} USD", "{words} dollars", "{a} bucks")
"""How an amount of money is written."""

TRAIN: dict[str, Pool] = {
    "refund": Pool(
        express=(
            "I would like [my money back|a full refund|to be reimbursed].",
            "[Send|Return] the {amount} you took to my card.",
            "How do I go about [getting refunded|getting the payment returned|having the charge reversed]?",
            "I am returning the {product} and want what I paid [credited to my account|put back on my card].",
            "Cancel the order and [give me my money back|reverse the payment].",
            "[A voucher|A replacement] is no use to me, I want the [cash|money] itself.",
            "When will the [reimbursement|money] for the {product} be on my account?",
            "I expect to be paid back [in full|every cent] for this {product}.",
            "Nobody has told me how to claim the [payment|money] back.",
            "You can keep the {product}; [undo the charge|the payment should come back to me].",
            "I sent the {product} back in {month} and the [refund|credit] still is not on my statement.",
            "Is it possible to have the amount [transferred back|paid back] to me?",
        ),
        counter=(
            "I am not [asking for a refund|after my money back], I only need [a spare part|the manual].",
            "The refund for my last order [came through|reached my account], so that matter is closed.",
            "[No need to give me any money back|Please do not refund anything], a new lid would do.",
            "A friend says you [reimburse|refund] people without fuss, which is why I shop here.",
            "I read the [refund|reimbursement] policy out of interest and it is clear.",
            "My {product} works, so I have no reason to want the payment [returned|reversed].",
            "[My bank|My employer] reimburses me for the {product}, you do not have to.",
            "I got cash back from a {city} shop once, but that is another story.",
        ),
    ),
    "delay": Pool(
        express=(
            "It was promised for {weekday} and [nothing has come|there is no sign of it].",
            "The {product} [still has not turned up|has yet to arrive] after {weeks} weeks.",
            "[The tracking page|The status] has said 'on its way' for {days} days.",
            "I have been waiting for the {product} since {month}.",
            "Delivery was meant to take two days; we are on day {small}.",
            "Why is my parcel [stuck in|sitting in a depot in] {city}?",
            "The date keeps [moving|slipping], first {weekday}, then next week, now nobody knows.",
            "[Where is my {product}|Any idea where my parcel is]? It should have been here [last week|days ago].",
            "The courier has [postponed|pushed back] the drop-off again.",
            "The {product} came [a fortnight|{days} days] after the party it was for.",
            "My order is [running late|overdue] by {days} days.",
            "I stayed home all {weekday} for a van that never showed up.",
        ),
        counter=(
            "The {product} [arrived on time|came right on schedule], not a day late.",
            "[There is no rush|I do not mind waiting], {month} is soon enough.",
            "Delivery took two days, just as promised, [no delay at all|nothing to report there].",
            "I was late to open the box myself, [so it is my own doing|my fault].",
            "The parcel [reached me|got to {city}] sooner than the tracking said.",
            "We waited for {weekday} to try it out because of the weather.",
            "My train was delayed by {days} hours, so I had time to read your catalogue.",
            "The courier showed up early and was [friendly|quick].",
        ),
    ),
    "anger": Pool(
        express=(
            "This is [outrageous|a disgrace|beyond a joke].",
            "I am [furious|livid|seething] about how this was handled.",
            "What kind of [circus|outfit] are you people running?",
            "[Never again|You have lost a customer for good].",
            "How hard can it be to [read an email|pack a box properly]?",
            "I have had it up to here with [your excuses|this nonsense].",
            "Your hotline hung up on me [twice|three times], unbelievable.",
            "Stop [wasting my time|fobbing me off].",
            "Whoever packed this {product} should be ashamed.",
            "I will make sure everyone in {city} hears what a [shambles|rotten shop] this is.",
            "You clearly could not care less about the people who pay you.",
            "It makes my blood boil that [nobody answers|I have to write again].",
        ),
        counter=(
            "I am not [angry with you|upset|cross], only curious.",
            "My toddler was furious that the box held no toy, [but we laughed|and we all laughed].",
            "No complaints [from me|here], your people were great on the phone!",
            "The neighbours were [livid|outraged] about their shop; mine, yours, is fine.",
            "I was ready to be annoyed, but the fix took a minute.",
            "It is a joke gift for a colleague, hence the [ridiculous|outrageous] colour.",
            "The reviews made it sound like a disgrace; it is a [lovely|decent] {product}.",
            "Nobody here is [shouting|fuming], it is a small thing.",
        ),
    ),
    "price": Pool(
        express=(
            "Why does the {product} cost [so much more|a third more] than it did in {month}?",
            "[Another shop|A store in {city}] sells the same {product} for [far less|half of that].",
            "That is [too expensive|more than it is worth] for a {product}.",
            "Could the {product} come down a bit, [say with a discount|if I buy two]?",
            "The [sale|promotion] said twenty percent off, yet the till charged the old rate.",
            "Do you match what [your competitors|other sites] charge?",
            "[Shipping fees|Delivery charges] nearly double what the {product} costs.",
            "I was charged {amount} although the label said {amount2}.",
            "Nowhere does the page say what the {product} [costs|will cost] in the end.",
            "It went up by {amount} overnight, [what happened|why is that]?",
            "Is there [a cheaper|a less costly] version of this {product}?",
            "For that kind of money I expected [steel|leather], not plastic.",
        ),
        counter=(
            "The price [is fair|was fine], that is not why I write.",
            "Money is [no object|not the issue] here, the colour is.",
            "It was [cheap|a bargain] and works well.",
            "I do not care what the {product} costs, only whether it fits.",
            "[A discount|A voucher] would be wasted on me, I have all I need.",
            "My sister priced up a kitchen in {city}, so we are all tired of numbers.",
            "The invoice shows the same cost as the website, [all in order|as it should].",
            "He won a prize, and the {product} was it, free of charge.",
        ),
    ),
    "order_value": Pool(
        express=(
            "The order [came to|was worth] {amount} in total.",
            "I spent {amount} with you [on {weekday}|this time].",
            "[All told|Altogether] the basket was {amount}.",
            "My {amount} order has [a part missing|the wrong label].",
            "It is an order worth {amount}, in case that matters.",
            "The invoice for the whole purchase reads {amount}.",
            "I paid {amount} for everything in [the basket|that order].",
            "Order {number}, total {amount}, [was placed in {month}|is the one I mean].",
            "We bought things for {amount} for [the office|the school].",
            "The sum on the receipt is {amount}.",
            "That is {amount} of goods we are talking about.",
            "A purchase of {amount} ought to include gift wrap, I think.",
        ),
        counter=(
            "I have not ordered anything yet, [the basket is empty|I am only looking].",
            "My order number is {number}, I do not remember the total.",
            "The manual says customs only look at parcels above {amount}.",
            "The receipt is lost, so I cannot say what the order came to.",
            "There is a {amount} limit on my new card, [nothing to do with you|unrelated to this].",
            "I won {amount} at bingo on {weekday}, so the day was good.",
            "The whole order was [a gift|a present], I never saw the invoice.",
            "Does a small order get the same [warranty|guarantee] as a large one?",
        ),
    ),
    "politeness": Pool(
        express=(
            "[Could you kindly|Would you be so kind as to] look into it?",
            "Thank you [so much|very much] for your help.",
            "I would be [most grateful|very thankful] for a reply.",
            "[Please|If you would, please] let me know when you have a moment.",
            "I hope you are [having a good day|all keeping well].",
            "Sorry to [trouble|bother] you with this.",
            "[If it is not too much trouble|When it suits you], might you take a look?",
            "I really appreciate [your time|the work you do].",
            "Many thanks in advance to [whoever reads this|you and the team].",
            "May I ask you a favour?",
            "With [warm|kind] regards and thanks.",
            "[Forgive the long message|Pardon the bother], and thank you for reading.",
        ),
        counter=(
            "The card in the box says 'thank you for shopping with us'.",
            "The screen says 'please wait' and then [goes dark|restarts].",
            "Your recording kept telling me how sorry you were.",
            "You will tell me where the [serial number|switch] is.",
            "I want you to [answer by email|reply by {weekday}].",
            "The [manual|label] thanks the buyer in six languages and explains nothing.",
            "The word 'kindly' is misspelled on page {small} of the manual.",
            "You owe me [an answer|a reply], write back.",
        ),
    ),
}

HELDOUT: dict[str, Pool] = {
    "refund": Pool(
        express=(
            "Put the {amount} back where it came from, my [debit card|account].",
            "I have decided against the {product} and would rather have [the funds|my payment] again.",
            "What is the process to [recover what I spent|be given back what I spent]?",
            "The sum ought to be [restored to|on] my bank account once you have the {product} in hand.",
            "I hereby withdraw from the purchase and ask for [repayment|a refund].",
            "Will you [compensate me|repay me] for the {product} or not?",
        ),
        counter=(
            "Keep the money, [an exchange|the right size] is all I want.",
            "You already [repaid|refunded] me for the {other}, settled.",
            "It says refunds take a week; mine, a year ago, took two days.",
            "I would not dream of sending the {product} back for money.",
        ),
    ),
    "delay": Pool(
        express=(
            "The {product} is nowhere to be seen although [{weekday} was the deadline|it left {city} ages ago].",
            "{weeks} weeks on, my doorstep is as empty as before.",
            "Every morning the app adds one more day to the [estimate|forecast].",
            "We needed the {product} by {weekday}; that day has gone.",
            "The shipment has been [held up|frozen] in {city}.",
            "Did someone forget to ship the {product}? I ordered it back in {month}.",
        ),
        counter=(
            "Shipping was [swift|faster than I hoped], and I ordered late at night.",
            "Take your time, the birthday is in {month}.",
            "It was here by {weekday}, exactly when you said.",
            "I waited to write until the holidays were over.",
        ),
    ),
    "anger": Pool(
        express=(
            "You should [hang your heads|be embarrassed].",
            "I am [fed up|sick and tired of this], full stop.",
            "Is anyone there even [awake|trying]?",
            "Utter incompetence, from start to finish.",
            "I have seen lemonade stands run better than [your warehouse|this company].",
            "Do not you dare send me another [canned answer|robot].",
        ),
        counter=(
            "My cat hates the {product}, which is [hilarious|rather funny].",
            "I expected a fight and met [a saint|nothing but patience].",
            "Not a word of anger from us, the staff did well.",
            "People rage about it online; we are [calm|content].",
        ),
    ),
    "price": Pool(
        express=(
            "[It seems steep|Rather dear], {amount} for a {product}.",
            "Last year the {product} went for {amount}; explain the jump.",
            "Can you do [a better deal|something] on the {product}?",
            "With the coupon it should have been {amount2} and not {amount}.",
            "I could save a fortune by buying the {product} [abroad|in {city}].",
            "What would the {product} set me back, taxes and all?",
        ),
        counter=(
            "I would have paid twice that, [it is superb|gladly].",
            "No quarrel with the cost of the {product}.",
            "The tag was still on, but I do not look at those.",
            "Cheap or dear is all the same to me, [size matters|the size must be right].",
        ),
    ),
    "order_value": Pool(
        express=(
            "Everything together set me back {amount}.",
            "You billed {amount} for the lot, order {number}.",
            "The checkout page showed a total of {amount}.",
            "I put {amount} through your till [on {weekday}|in {month}].",
            "It was a big shop, {amount} with the {other}.",
            "Purchase number {number} stands at {amount} in my books.",
        ),
        counter=(
            "I know neither the number nor the sum of that order, my [wife|husband] does.",
            "My rent went up to {amount}, so no orders this month.",
            "Total silence from the {product}, it does not hum.",
            "The order of the pages in the booklet is wrong.",
        ),
    ),
    "politeness": Pool(
        express=(
            "I would be obliged if somebody could [check|look].",
            "You have been [wonderful|very patient], bless you.",
            "Might I [trouble you for|ask for] a short answer?",
            "Apologies if this has been asked before.",
            "Wishing you [a lovely weekend|a pleasant {weekday}].",
            "Whenever you find the time, and only then, a hint would be much appreciated.",
        ),
        counter=(
            "The leaflet ends with 'we appreciate your trust'.",
            "A voice said 'pardon, may I help you' and then the line went dead.",
            "You need to give me the [code|address] for order {number}.",
            "A thank-you card for somebody else was in my parcel.",
        ),
    ),
}

NEUTRAL_TRAIN = (
    "The {product} is [blue|grey|green].", "I use the {product} [every day|at weekends].", "We live in {city}.",
    "I bought the {product} together with {other}.", "Does the {product} come in [black|a larger size]?",
    "How do I [change my password|update my address]?", "The account is in the name of {name}.",
    "Is the {product} [dishwasher safe|suitable for children]?", "My colleague {name} has the same {product}.",
    "The box had number {number} on it.", "I noticed this on {weekday}.", "Which [batteries|cable] does the {product} need?",
    "The {product} makes a [clicking|buzzing] sound.", "Your app [logs me out|asks for a code] each time.",
)  # fmt: skip
NEUTRAL_HELDOUT = (
    "Can the {product} be used [outdoors|at sea]?", "It stands in our [kitchen|hall] in {city}.",
    "Where can I find the [guarantee card|newsletter settings]?", "{name} recommended the {product} to me.",
    "It is the model with the [round|square] base.", "I would like to hear about new {other}.",
    "Two screws of the {product} look [alike|different].",
)  # fmt: skip

GREETINGS = ("", "", "", "Hi,", "Hello,", "Good morning,", "Hello there,", "To customer service:", "Hi {name},")
CLOSINGS = ("", "", "", "{name}", "- {name}", "{name}, {city}", "Sent from my phone")
LINKS = ("", "", "", "Also, ", "And ", "By the way, ", "One more thing: ", "So, ")
