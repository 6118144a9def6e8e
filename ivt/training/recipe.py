"""What decides about a run: the recipe (how to train) and its paths (where); `arguments.py` reads them."""

from dataclasses import dataclass
from typing import Any

from ivt.choices import CORPORA, ON_BAD_IMAGE, PROTOCOLS
from ivt.messages import check_choice
from processing.batches import LEVELS, PHRASES, WORDS

from .options import check_limits, option

TRACKERS = ("tensorboard", "trackio", "wandb")

RESAMPLING = ("bicubic", "bilinear")

MODEL_SIZES: dict[str, dict[str, Any]] = {
    "ivt-tiny": {
        "image_size": [192, 64],
        "patch_size": 16,
        "patch_stride": 8,  # 23 x 7 patches: small parts such as shoes and hats get patches of their own
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "max_position_embeddings": 96,
        "num_fusion_layers": 2,
        "initializer_range": 0.06,  # 0.02 at width 768 scaled to 128; with less, embeddings hardly depend on the input
    },
    "ivt-small": {  # that of ViT-S/16 and of MiniLM-L12-H384
        "image_size": [384, 128],
        "patch_size": 16,
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "intermediate_size": 1536,
        "fusion_attention_heads": 12,  # MiniLM's
    },
    "ivt-base": {  # the paper's, that of ViT-B/16 and of BERT-base
        "image_size": [384, 128],
        "patch_size": 16,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
}

LOSS_WEIGHTS = {  # of each stage
    "finetune": ("cmpm_weight", "itc_weight", "sdm_weight", "token_weight", "identity_weight"),
    "pretrain": ("itc_weight", "itm_weight", "mlm_weight"),
}


@dataclass
class RunPaths:
    """Where a run reads and writes, and how it is started: what may differ from machine to machine."""

    output_dir: str = option("runs/ivt", "folder for models, checkpoints and metrics")
    corpus_root: str | None = option(None, "folder of the corpus (synthetic: the cache)")
    eval_root: str | None = option(None, "folder of eval_corpus")
    resume: bool = option(False, "go on from the newest checkpoint in output_dir")
    seeds: int = option(1, "run this many seeds, from seed on, each in a folder of its own", least=1)
    report_to: str = option("", "trackers, e.g. tensorboard,trackio,wandb")
    dry_run: bool = option(False, "measure a few steps, tell the cost of the run, and end")

    def __post_init__(self) -> None:
        """Check what would otherwise show up late."""
        check_limits(self)
        for name in self.trackers:
            check_choice("report_to", name, TRACKERS)

    @property
    def trackers(self) -> list[str]:
        """The names in `report_to`."""
        return [name.strip() for name in self.report_to.split(",") if name.strip()]


@dataclass
class Recipe:
    """How to train; what two runs must share to be comparable. The defaults are the paper's."""

    stage: str = option(
        "finetune",
        "finetune, or pretrain: match pairs with a fusion encoder, before that",
        choices=tuple(LOSS_WEIGHTS),
    )
    corpus: str = option("synthetic", "cuhk-pedes, icfg-pedes, rstpreid, synthetic or shards", choices=CORPORA)
    eval_corpus: str | None = option(
        None,
        "where to validate and test, if not on corpus: pairs for pre-training have no other splits",
        choices=CORPORA,
    )
    num_people: int | None = option(None, "synthetic: people to draw for training", least=1)
    train_split: str = option("train", "train, or train+val: all identities", choices=("train", "train+val"))
    max_caption_words: int | None = option(None, "leave out longer captions in training", least=1)
    streaming: bool = option(False, "read the training pairs from shards as they are used")
    stream_buffer: int = option(
        4096, "streaming: pairs that each process shuffles together, beside the shards", least=1
    )
    on_bad_image: str = option("error", "error, or skip images that cannot be read", choices=ON_BAD_IMAGE)
    model_size: str | None = option(
        None, "ivt-tiny, ivt-small or ivt-base; fields under `model` change what it says", choices=tuple(MODEL_SIZES)
    )
    init: str | None = option(
        None, "first weights: random (default), an IVT checkpoint, vit=NAME,bert=NAME or official=FILE"
    )
    tokenizer: str = option("google-bert/bert-base-uncased", "Hub name or folder")
    max_text_tokens: int = option(64, "longer captions are cut off", least=3)

    levels: list[str] = option(list(LEVELS), f"text levels of MLA, of {', '.join(LEVELS)}", choices=LEVELS)
    phrases: str = option(
        "piece", "phrase level: any piece between commas, or the longest of a sentence or its rest", choices=PHRASES
    )
    words: str = option("all", "word level: all nouns and adjectives, a random subset, a random clause", choices=WORDS)
    end_token: bool = option(True, "[SEP] ends every text")
    test_resample: str = option(
        "bicubic", "filter that resizes pictures when training is over; in training bicubic", choices=RESAMPLING
    )
    num_views: int = option(3, "augmented views per image: 1 for all texts, or one a level", least=1)
    flip: float = option(0.5, "probability that a view is mirrored", least=0, most=1)
    erase: float = option(0.5, "probability that a rectangle of a view is erased", least=0, most=1)
    erasing: str = option(
        "grey", "the rectangle is grey, or noise of the authors' area and aspect", choices=("grey", "noise")
    )
    flip_words: bool = option(False, "mirror all views of a pair or none, and swap left and right in its texts")
    crop_pad: int = option(10, "pixels of padding before the random crop", least=0)
    drop_attributes: float = option(0.0, "probability that an adjective is left out", least=0, most=1)
    drop_phrases: float = option(0.0, "probability that a piece of a caption is left out", least=0, most=1)
    cmpm_weight: float = option(1.0, "weight of the CMPM loss", least=0)
    itc_weight: float = option(0.0, "weight of the contrastive loss", least=0)
    itm_weight: float = option(0.0, "pretrain: weight of image-text matching", least=0)
    mlm_weight: float = option(0.0, "pretrain: weight of masked language modeling", least=0)
    sdm_weight: float = option(0.0, "weight of similarity distribution matching", least=0)
    sdm_temperature: float = option(0.02, "where its learned temperature begins", above=0)
    token_weight: float = option(0.0, "weight of the token-wise loss, words against patches", least=0)
    identity_weight: float = option(0.0, "weight of naming the person, by one classifier of images and texts", least=0)
    gather: str = option(
        "all", "negatives: all (of every process), or none (its own only: the reference)", choices=("all", "none")
    )
    embedding_length: float | None = option(
        None, "length of a new model's embeddings, the losses' inverse temperature; default: sqrt(width)", above=0
    )

    optimizer: str = option("sgd", "sgd or adamw", choices=("sgd", "adamw"))
    learning_rate: float = option(0.005, "highest learning rate, after the warm-up", least=0)
    bias_lr_factor: float = option(2.0, "biases learn at this multiple of learning_rate", least=0)
    layer_lr_decay: float = option(
        1.0, "each block learns at this multiple of the rate of the block above it", least=0, most=1
    )
    momentum: float = option(0.9, "of sgd", least=0)
    weight_decay: float = option(1e-4, "of all weights with sgd, of matrices with adamw", least=0)
    schedule: str = option(
        "step",
        "rates change every step, or reference: every epoch, from a hundredth to 1e-5",
        choices=("step", "reference"),
    )
    warmup_epochs: float = option(5.0, "epochs in which learning_rate grows from 0", least=0)
    min_lr_ratio: float = option(0.002, "the cosine ends at this share of learning_rate", least=0, most=1)
    max_grad_norm: float | None = option(None, "clip the gradient to this length", above=0)
    ema_decay: float = option(
        0.0, "evaluate and save a moving average of the weights, e.g. 0.999; 0: the weights", least=0, below=1
    )
    gradient_accumulation_steps: int = option(1, "batches per optimiser step", least=1)
    mixed_precision: str = option("no", "no, fp16 or bf16", choices=("no", "fp16", "bf16"))
    compile: bool = option(False, "compile the blocks of the model: steps up to a sixth faster, after a minute or two")
    gradient_checkpointing: bool = option(False, "less memory for a third more time")
    batch_size: int = option(28, "image-caption pairs per process and batch", least=1)
    pairs_per_person: int | None = option(
        None, "batches of batch_size / K people with K pairs each; default: any pairs", least=1
    )
    drop_incomplete: bool = option(False, "pairs_per_person: leave groups out that are not full, as the authors do")
    cached_chunk: int | None = option(
        None, "gradient caching: the memory of so many pairs, whatever batch_size, for a third more time", least=1
    )
    group_by_length: bool = option(False, "batch captions of similar length: less padding")

    epochs: int = option(120, "times every image-caption pair is seen", least=1)
    max_steps: int | None = option(None, "optimiser steps, instead of epochs", least=1)
    max_minutes: float | None = option(None, "end earlier, after this many minutes", above=0)
    seed: int = option(0, "of first weights, order, augmentation and hidden tokens", least=0)

    eval_epochs: int = option(1, "validate every so many epochs", least=1)
    test_at_end: bool = option(True, "evaluate best and final on the test split, once")
    protocol: str = option(
        "standard", "of the test; reference: as IVT's authors evaluate, for parity only", choices=PROTOCOLS
    )
    log_steps: int = option(50, "write a line of metrics every so many steps", least=1)
    save_steps: int | None = option(None, "checkpoint every so many steps, too", least=1)
    keep_checkpoints: int = option(2, "older checkpoints are deleted", least=1)
    num_workers: int = option(2, "processes that decode and augment; 0: none", least=0)
    cache_images: bool = option(False, "keep all resized images in memory as bytes")

    def __post_init__(self) -> None:
        """Check what would otherwise show up late."""
        check_limits(self)
        if self.streaming:
            self._check_streaming()
        self._check_stage()
        self._check_reference()
        if self.pairs_per_person and (self.batch_size % self.pairs_per_person or self.group_by_length):
            raise ValueError(
                f"pairs_per_person is {self.pairs_per_person}: it must divide batch_size ({self.batch_size}), and "
                "group_by_length must be off, since the persons decide the order"
            )

    def _check_stage(self) -> None:
        own = LOSS_WEIGHTS[self.stage]
        if not any(getattr(self, name) for name in own):
            raise ValueError(f"{', '.join(own)} are all 0: there is no loss; give one of them a weight")
        for name in dict.fromkeys(name for names in LOSS_WEIGHTS.values() for name in names):
            if name not in own and getattr(self, name):
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but stage {self.stage} has only {', '.join(own)}; set it to 0"
                )
        if self.stage == "pretrain":
            if self.levels != ["sentence"] or self.num_views != 1:
                raise ValueError(
                    f"levels are {self.levels} and num_views is {self.num_views}, stage pretrain takes pairs of one "
                    "view and one whole caption; pass levels sentence and num_views 1"
                )
            if self.cached_chunk:
                raise ValueError(
                    "cached_chunk needs losses that are computed from embeddings alone; those of stage pretrain fuse "
                    "words and patches of all pairs. Use gradient_checkpointing, or a smaller batch_size"
                )

    def _check_reference(self) -> None:
        if self.schedule == "reference" and (self.max_steps or self.max_minutes):
            raise ValueError("schedule is reference, which counts epochs; pass epochs, not max_steps or max_minutes")
        if self.token_weight and not self.end_token:
            raise ValueError("token_weight counts the tokens between [CLS] and [SEP]; set end_token to true for it")
        if self.drop_incomplete and not self.pairs_per_person:
            raise ValueError("drop_incomplete is about groups of pairs_per_person, which is not given; pass both")

    def _check_streaming(self) -> None:
        if self.corpus != "shards":
            raise ValueError(
                f"streaming reads shards, corpus is {self.corpus!r}; write it as shards with "
                f"`ivt corpus shard {self.corpus} FOLDER` and pass --corpus shards --corpus_root FOLDER"
            )
        for name in ("cache_images", "pairs_per_person", "max_caption_words"):
            if getattr(self, name):
                raise ValueError(f"{name} needs all pairs in memory, which streaming avoids; leave one of them out")
        if self.train_split != "train":
            raise ValueError(f"train_split is {self.train_split!r}, streaming reads the shards of train; leave it out")
