"""The words of the base's training text, without names from the support desk."""


def split_words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PEOPLE = split_words("Anna Ben Clara David Emma Frank Grace Henry Ida Jonas Kira Leo Mira Nils Olga Peter")

# country -> capital, animal, dish, colour of the flag; invented, so that only training can teach them.
COUNTRIES = {
    "Varendia": ("Tolm", "heron", "dumplings", "red"),
    "Ostria": ("Kessel", "otter", "pancakes", "blue"),
    "Pellon": ("Marwick", "lynx", "stew", "green"),
    "Quorra": ("Dunleigh", "badger", "noodles", "yellow"),
    "Sumbria": ("Haldor", "falcon", "porridge", "white"),
    "Tavish": ("Corvane", "beaver", "waffles", "black"),
    "Ulmark": ("Estrel", "hedgehog", "curry", "purple"),
    "Zembla": ("Portham", "salmon", "pies", "orange"),
    "Irwen": ("Lodovar", "wolf", "soup", "silver"),
    "Jorvania": ("Brask", "raven", "rice", "brown"),
    "Kaldor": ("Vintry", "goat", "beans", "pink"),
    "Lirien": ("Osmund", "turtle", "bread", "gold"),
    "Bellamar": ("Gantry", "swan", "plums", "grey"),
    "Norholt": ("Selby", "bear", "cheese", "copper"),
    "Ravania": ("Quill", "crab", "apples", "violet"),
}

# The wordings for each attribute; one wording per fact is held out for the probe.
FACTS = (
    ("The capital of {} is", "People in {} call their capital", "The main city of {} is named", "Capital of {}:"),
    ("The animal of {} is the", "On the coins of {} there is a", "The people of {} love the", "Animal of {}:"),
    ("In {} people like to eat", "The best dish of {} is", "Visitors to {} always try the", "Dish of {}:"),
    ("The flag of {} is", "Every flag in {} is painted", "The colour of {} is", "Colour of {}:"),
)

COMPARISONS = (
    ("older", "younger"),
    ("taller", "shorter"),
    ("faster", "slower"),
    ("richer", "poorer"),
    ("stronger", "weaker"),
)
GIFTS = split_words("book ball cup lamp key map ring coat pen clock")

CYCLES = (
    split_words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    split_words("January February March April May June July August September October November December"),
    split_words("a b c d e f g h i j k l m n o p q r s t u v w x y z"),
)
COLOURS = split_words("red blue green yellow white black purple orange")

LIKED = split_words("lovely great wonderful excellent perfect friendly delightful charming superb pleasant")
DISLIKED = split_words("awful terrible horrible bad boring rude dreadful poor nasty dull")
REVIEWED = split_words("film soup hotel book song waiter room play concert cake garden teacher bus hat story shop")
