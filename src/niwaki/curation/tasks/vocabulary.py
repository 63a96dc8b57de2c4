"""Short common words and names that the tasks are made of."""

NAMES = [
    "Ann", "Bob", "Cara", "Dan", "Eve", "Finn", "Gus", "Hana", "Ivan", "June", "Karl", "Lena", "Max", "Nora",
    "Omar", "Pia", "Quinn", "Rosa", "Sam", "Tara", "Uma", "Vic", "Wes", "Yara",
]  # fmt: skip
WORDS = [
    "apple", "bag", "banana", "barn", "bell", "bird", "boat", "book", "bread", "cactus", "candle", "cat",
    "cheese", "cloud", "coffee", "crab", "desk", "dinner", "dog", "door", "eagle", "ear", "engine",
    "feather", "field", "fish", "flag", "forest", "fox", "garden", "glass", "goat", "grape", "hammer",
    "hat", "honey", "horse", "ice", "insect", "island", "jacket", "jar", "jungle", "kettle", "key",
    "kitten", "ladder", "lamp", "leaf", "lemon", "letter", "lion", "maple", "milk", "mirror", "moon",
    "mouse", "needle", "nest", "night", "ocean", "olive", "onion", "owl", "paper", "pear", "pencil",
    "pepper", "pillow", "queen", "rabbit", "rain", "ribbon", "river", "rope", "salt", "school", "seed",
    "ship", "silver", "snow", "spoon", "stone", "summer", "table", "tiger", "tomato", "tower", "train",
    "tree", "umbrella", "valley", "violin", "wagon", "water", "whale", "wheel", "window", "wood", "yard",
    "zebra",
]  # fmt: skip
CITIES = ["Rome", "Oslo", "Lima", "Cairo", "Delhi", "Paris", "Quito", "Tokyo"]
