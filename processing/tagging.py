"""Part-of-speech taggers for the word level: NLTK's averaged perceptron, or a small one that needs no download.

NLTK's tagger (`averaged_perceptron_tagger_eng`, trained on newspapers of the Penn Treebank) reads its weights from
NLTK's data folders. Where they are missing and cannot be fetched, `load_tagger("small")` trains NLTK's own class, in
less than a second, on the captions below. They were written for this file in the manner of the embedded corpus and
CUHK-PEDES; their tags come from `LEXICON`, which also has the words of the embedded corpus.
"""

import io
import logging
import random
import re
import threading
from functools import lru_cache
from itertools import cycle

import nltk
from nltk.tag import PerceptronTagger

logger = logging.getLogger(__name__)

NLTK_DATA = "averaged_perceptron_tagger_eng"
DOWNLOAD_SECONDS = 15

TOKEN = re.compile(r"\w+(?:[-']\w+)*|[^\w\s]")  # "t-shirt" and "man's" are one token

# Penn Treebank tag -> words that have it in CAPTIONS, unless written word/TAG there.
LEXICON = {
    "DT": "a an the this each both another some no",
    "IN": "in on of with over under at from across around behind above below along past near by for inside onto "
    "while toward towards beside against through into before as like",
    "CC": "and or but",
    "TO": "to",
    "EX": "there",
    "CD": "one two three",
    "RP": "up down out off",
    "WDT": "that which",
    "PRP": "she he they it we you",
    "PRP$": "her his their its",
    "RB": "also away forward horizontally vertically sideways heavily here slightly very completely loosely neatly "
    "ahead just not almost slowly about backwards",
    "VBZ": "is has wears carries holds shows hangs falls reaches ends walks stands appears looks covers matches "
    "seems rides pushes talks features comes",
    "VBP": "are have see wear carry hold end hang walk reach look",
    "VBD": "wore had was held walked carried",
    "VBG": "wearing walking standing carrying holding facing having looking riding pushing talking using hanging "
    "showing covering reaching matching flowing turning crossing",
    "VBN": "dressed seen tied cut pulled turned built pictured tucked rolled worn slung draped wrapped parted swept "
    "photographed shown gathered pinned",
    "JJ": "black white gray grey blue red green yellow orange pink purple violet brown beige tan khaki navy blond "
    "blonde reddish auburn ginger dark light bright pale golden silver teal maroon turquoise olive burgundy cream "
    "neon colored multicolored colorful striped pinstriped plaid checkered checked dotted spotted patterned printed "
    "plain solid floral long short curly straight wavy loose tight baggy bald shaved thin slim slender stocky "
    "heavyset tall young old elderly middle-aged petite small large big wide narrow high low full open unbuttoned "
    "buttoned hooded sleeved sleeveless long-sleeved short-sleeved long-sleeve short-sleeve collared bobbed brimmed "
    "heeled facial mobile horizontal vertical left right knee-length shoulder-length ankle-length faded ripped torn "
    "cropped quilted fitted puffy shiny fuzzy casual formal other thick skinny athletic light-colored dark-colored "
    "dark-haired polka-dot two-tone cuffed pleated padded woolen asian simple sporty visible zippered laced "
    "rolled-up see-through v-neck",
    "NN": "woman lady girl female man guy male gentleman boy person pedestrian individual student child hair bob "
    "bun ponytail tail pony beard head neck face chin shoulder back body waist chest hand arm wrist foot leg knee "
    "ankle side front camera picture image photo profile top shirt t-shirt tee blouse sweater pullover jumper "
    "hoodie sweatshirt tank polo jacket coat overcoat dress skirt denim leather cotton cloth suit vest cardigan "
    "blazer windbreaker parka poncho uniform tracksuit jersey scarf belt tie cap hat beanie headband visor umbrella "
    "bag backpack rucksack knapsack purse handbag tote briefcase suitcase satchel strap phone cellphone smartphone "
    "cell bottle water cup coffee paper newspaper book notebook folder magazine plastic shopping grocery messenger "
    "crossbody baseball button dot polka knit sun tennis running hiking sleeve collar hood pocket zipper pair piece "
    "length pattern print stripe design logo waistband hem fabric color sole shoe boot bracelet necklace watch ring "
    "street sidewalk bicycle bike road hairstyle ear row hairband wool fur lace trim ribbon bow clip lining bottom "
    "edge wall woman's man's lady's girl's guy's male's female's person's gentleman's individual's pedestrian's "
    "build skin outfit clothing middle bandana luggage",
    "NNS": "pants jeans trousers slacks leggings tights shorts shoes sneakers trainers boots sandals heels pumps "
    "flats loafers flip-flops slippers socks stockings glasses sunglasses eyeglasses sleeves arms legs knees ankles "
    "sides shoulders feet hands stripes checks spots dots curls laces soles buttons pockets cuffs bags straps bangs "
    "overalls flowers letters headphones earphones gloves capris dresses shirts books colors patterns clothes "
    "bracelets ears",
    ",": ",",
    ".": ".",
}

CAPTIONS = """
A woman with long brown hair is wearing a red jacket, blue jeans and white sneakers. She is carrying a black handbag
in her left hand.
The man is dressed in a gray hooded sweatshirt and black pants. He has a green backpack on his back and is walking
away.
This girl has black hair tied up in a ponytail. Her shirt is pink and her skirt is white. Her shoes are black.
The guy wears a blue and white striped polo shirt, khaki shorts and a pair of brown sandals.
A person facing the camera, wearing an orange sweater over a white shirt and dark trousers. Their hair is short and
curly.
Walking toward the camera, a tall man in a black suit holds a silver phone in his right hand. His tie is red.
The picture shows a lady in a short purple dress with white polka dots. Her blonde hair falls past the shoulders.
There is a yellow backpack on his back/NN. His jeans are gray and on his feet are white tennis shoes.
A slim woman seen from behind. She wears a long beige coat, black tights and high heeled shoes. Her bag is brown.
The gentleman has gray hair, glasses and a full beard. He is wearing a plaid shirt with long sleeves and slacks.
The image shows a male with a shaved head who/WP is standing sideways. He has on/RP a green t-shirt with a white logo
on the front/NN, and baggy shorts that end at the knee.
A young girl with dark hair pulled back/RB into a bun, dressed in a sleeveless top and faded denim shorts.
He is wearing a white long-sleeved shirt tucked into gray pants with a black leather belt, and he carries a
briefcase.
The pedestrian is walking forward. Her hair is blond and hangs loose. Her trousers are tan and her blouse is blue.
Here we see a man from the side, wearing a red baseball cap, a dark jacket and light blue jeans. He is holding a cup.
This individual has a purple scarf around their neck and is wearing a navy coat that reaches the knees.
A woman in a black and white checkered blouse, a knee-length skirt and open sandals, holding a yellow umbrella in her
right hand.
The lady's boots are brown and her leggings are black. She has a light gray cardigan over a pink tank top.
A man with a striped sweater with red stripes across it, plain brown pants and black boots. There is a blue bottle in
his hand.
Her green dress is short with short sleeves. She has long straight black hair and wears a pair of white flats.
The person is turned to the side. They are wearing a cream colored hoodie, gray pants with a black stripe down/IN the
side, and running shoes.
A stocky guy with short cut/NN hair and dark glasses. His jacket is open over a white t-shirt. His pants are rolled
up.
The female is carrying a plastic bag and a notebook. She wears a button/NN down collared shirt and a pair of ripped
blue jeans.
In her left hand is a green purse, on her head is a wide brimmed hat, and her dress is yellow.
The boy has curly red hair. He is wearing a quilted vest over a patterned sweater, torn jeans and high top sneakers.
An elderly man walks with a brown hat on his head, a checked jacket and loose gray trousers. He has white hair.
The woman's hair is auburn and wavy. She wears a floral blouse, skinny black pants and pale pink heels.
A man wearing black shoes, gray socks and blue shorts. He also has a black messenger bag with a strap across his
body.
She has her dark brown hair in a bob and is dressed in a turquoise knit sweater with white jeans.
The man was wearing a dark coat and had a folder under his arm. He wore thick glasses.
A woman with shoulder length brown hair has on/RP a thin maroon jacket over a white top, tight jeans and knee high
boots.
This man is bald. His polo shirt is orange with white buttons and a white collar, and his pants are beige.
The girl is talking on a phone. She wears a bright pink tank top, tiny/JJ denim shorts and flip-flops, and carries a
tote.
A student with a large red rucksack. The jacket is dark green and the trousers are khaki. The shoes are not visible.
A lady wearing a two-tone sweatshirt, black with gray sleeves, and a long pleated skirt. Her sneakers are white with
pink laces.
The man in the picture has a blue windbreaker with a hood, gray sweatpants/NNS and white trainers with neon green
soles.
He is holding a newspaper, a paper cup and a set/NN of keys/NNS. His white shirt has thin blue vertical stripes.
A woman is pushing a bicycle. She wears a shiny silver parka with a fur hood, black tights and ankle boots.
The person's coat is gray and is unbuttoned. There is a beige shirt under it. The person's jeans are dark blue.
She is wearing sunglasses, a straw/NN hat and a white lace dress with a brown belt around her waist.
The woman has her hair in a pony tail and is wearing a white shirt with a black design on it and matching/JJ shoes.
Two bags hang from his shoulder, one brown and one black. He wears olive pants, a plain shirt and a formal vest.
This guy has a shopping bag in each hand. His hooded sweater is burgundy, his shorts are plaid and his cap is white.
A tall, thin lady with golden hair and bangs, wearing a blue uniform, a small watch and black stockings.
The man's sleeves are rolled up and his shirt is not tucked. His light colored pants have cuffs and big pockets.
A middle-aged woman in a loosely fitted teal blouse with a floral print, white capris and low heels.
He has a crossbody bag slung over his right shoulder. He is dressed in all/DT black clothing with white shoes.
The back/NN of her jacket is red with a round/JJ white logo. Her black pants are narrow at the ankle.
The young man has headphones around his neck, a gray beanie and a dark-colored puffy jacket with an orange lining.
With her back/NN to the camera, the woman is standing in a spotted coat and brown leather boots. Her hair is gray.
"""


def find_tagger() -> str:
    """Say which tagger can be had here: "nltk" (fetching its data if need be) or, with a logged warning, "small"."""
    if _has_nltk_data():
        return "nltk"
    # In a thread, because NLTK waits minutes for a network that does not answer.
    fetch = threading.Thread(target=_fetch_nltk_data, daemon=True)
    fetch.start()
    fetch.join(DOWNLOAD_SECONDS)
    if _has_nltk_data():
        return "nltk"
    logger.warning(
        "NLTK's tagger data is missing and could not be fetched: nouns and adjectives are found by a small tagger "
        "instead. For NLTK's own run: python -m nltk.downloader %s",
        NLTK_DATA,
    )
    return "small"


def _fetch_nltk_data() -> None:
    try:
        nltk.download(NLTK_DATA, quiet=True, print_error_to=io.StringIO())
    except (OSError, ValueError) as error:  # no network, a broken answer, no folder that can be written
        logger.debug("NLTK's tagger could not be fetched: %s", error)


def _has_nltk_data() -> bool:
    try:
        nltk.data.find(f"taggers/{NLTK_DATA}/")
        return True
    except LookupError:
        return False


@lru_cache
def load_tagger(name: str) -> PerceptronTagger:
    """Load tagger "nltk" or train tagger "small"; see `find_tagger`."""
    if name == "nltk":
        return PerceptronTagger()
    if name != "small":
        raise ValueError(f"tagger is {name!r}, expected 'nltk' or 'small'; find_tagger() says which can be had")
    tagger = PerceptronTagger(load=False)
    state = random.getstate()
    random.seed(0)  # NLTK shuffles by the global generator: same weights every time, and nobody else's numbers change
    tagger.train(tagged_captions() + _tagged_phrases(), nr_iter=8)
    random.setstate(state)
    closed = ("DT", "IN", "CC", "TO", "EX", "PRP", "PRP$", "RB", "VBZ", "VBP")  # few words, too few examples of each
    tagger.tagdict.update({word: tag for tag in closed for word in LEXICON[tag].split()})
    return tagger


def tagged_captions() -> list[list[tuple[str, str]]]:
    """The captions that the small tagger learns from: lists of (lower-case word, Penn Treebank tag)."""
    tag_of = {word: tag for tag, words in LEXICON.items() for word in words.split()}
    captions = []
    for caption in re.split(r"(?<=\.)\n", CAPTIONS.strip()):
        pieces = re.findall(rf"({TOKEN.pattern})(?:/([A-Z]+))?", caption)  # word and, where written, its tag
        captions.append([(word.lower(), tag or tag_of[word.lower()]) for word, tag in pieces])
    return captions


def _tagged_phrases() -> list[list[tuple[str, str]]]:
    """Every adjective and noun of the lexicon once more, in "a red coat" and "red shoes"."""
    adjectives = cycle(LEXICON["JJ"].split())
    phrases = [[("a", "DT"), (next(adjectives), "JJ"), (noun, "NN")] for noun in LEXICON["NN"].split()]
    return phrases + [[(next(adjectives), "JJ"), (noun, "NNS")] for noun in LEXICON["NNS"].split()]
