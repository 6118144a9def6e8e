"""Words of the captions: what annotators call people, colours and things."""

NOUNS = {
    "woman": ("woman", "woman", "woman", "woman", "lady", "lady", "girl", "female"),
    "man": ("man", "man", "man", "man", "guy", "male", "gentleman"),
    "neutral": ("person", "person", "person", "pedestrian", "individual"),
}
PRONOUNS = {"woman": ("she", "her"), "man": ("he", "his"), "neutral": ("they", "their")}
# Words of equal meaning; the first ones are repeated because annotators prefer them.
COLOUR_WORDS = {
    "gray": ("gray", "gray", "grey"),
    "beige": ("beige", "beige", "tan", "tan", "khaki", "cream colored"),
    "blue": ("blue", "blue", "blue", "blue", "blue", "blue", "blue", "navy", "navy blue"),
    "purple": ("purple", "purple", "purple", "violet"),
    "blond": ("blond", "blonde"),
    "dark brown": ("dark brown", "dark brown", "dark", "brown"),
}
HAIR_COLOUR_WORDS = COLOUR_WORDS | {"red": ("red", "reddish brown", "ginger", "auburn")}
KIND_WORDS = {
    "t-shirt": ("t-shirt", "t-shirt", "t-shirt", "tee shirt", "tee", "shirt", "top"),
    "shirt": ("shirt", "shirt", "button up shirt", "button down shirt", "collared shirt", "dress shirt"),
    "polo shirt": ("polo shirt", "polo shirt", "polo", "collared shirt", "shirt"),
    "blouse": ("blouse", "blouse", "top", "shirt"),
    "sweater": ("sweater", "sweater", "sweater", "pullover", "jumper"),
    "hoodie": ("hoodie", "hoodie", "hooded sweatshirt", "sweatshirt", "hooded sweater"),
    "tank top": ("tank top", "tank top", "sleeveless top", "sleeveless shirt"),
    "jacket": ("jacket", "jacket", "jacket", "jacket", "coat"),
    "coat": ("coat", "coat", "overcoat", "long coat", "jacket"),
    "dress": ("dress", "dress", "dress", "one piece dress"),
    "trousers": ("pants", "pants", "pants", "trousers", "trousers", "slacks"),
    "jeans": ("jeans", "jeans", "jeans", "denim jeans", "denim pants", "pants"),
    "leggings": ("leggings", "leggings", "tights"),
    "shorts": ("shorts",),
    "skirt": ("skirt",),
    "sneakers": ("sneakers", "sneakers", "tennis shoes", "running shoes", "trainers", "shoes", "shoes"),
    "boots": ("boots",),
    "dress shoes": ("dress shoes", "leather shoes", "shoes"),
    "sandals": ("sandals", "sandals", "open sandals"),
    "heels": ("heels", "high heels", "high heels", "high heeled shoes", "pumps"),
    "backpack": ("backpack", "backpack", "backpack", "rucksack", "knapsack", "book bag"),
    "shoulder bag": ("shoulder bag", "shoulder bag", "messenger bag", "crossbody bag", "bag"),
    "handbag": ("handbag", "handbag", "purse", "purse", "bag"),
    "tote bag": ("tote bag", "tote bag", "tote", "shopping bag", "bag"),
    "plastic bag": ("plastic bag", "plastic bag", "shopping bag", "grocery bag", "bag"),
    "phone": ("phone", "phone", "cell phone", "mobile phone", "smartphone"),
    "umbrella": ("umbrella", "umbrella", "folded umbrella"),
    "bottle": ("bottle", "bottle", "water bottle"),
    "cup": ("cup", "paper cup", "coffee cup"),
    "book": ("book", "book", "notebook"),
    "newspaper": ("newspaper", "newspaper", "paper"),
    "cap": ("cap", "baseball cap", "baseball cap", "hat"),
    "beanie": ("beanie", "beanie", "knit cap", "knit hat"),
    "sun hat": ("sun hat", "wide brimmed hat", "hat"),
    "glasses": ("glasses", "glasses", "eyeglasses", "a pair of glasses"),
    "sunglasses": ("sunglasses", "sunglasses", "a pair of sunglasses", "dark glasses"),
}
BUILD_WORDS = {"slim": ("slim", "thin", "slender"), "heavy": ("heavyset", "stocky", "heavily built")}
