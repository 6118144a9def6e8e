"""`ivt corpus check | push | shard`: look at a training corpus, pass it on, cut it into shards."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ivt.choices import CORPORA, OFFICIAL_SPLITS

from .options import CorpusRootOption, JsonOption, NumPeopleOption, OnBadImageOption, PrivateOption, print_json

NameArgument = Annotated[str, typer.Argument(help=f"{', '.join(CORPORA)}.")]


def check(
    name: NameArgument,
    corpus_root: CorpusRootOption = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    sheet: Annotated[Path | None, typer.Option(help="Also draw some people to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Count people, images and captions of a training corpus.

    Also repeated and empty captions, and for the drawn corpus how often the colours of two garments tell who it is.

    Example:
      ivt corpus check cuhk-pedes --corpus-root data/CUHK-PEDES --split train --sheet people.png
    """
    from ivt.corpora.check import count_split, draw_contact_sheet, print_counts, problem_of_colours, summarise
    from ivt.corpora.load import load_corpus

    if sheet:
        draw_contact_sheet(load_corpus(name, corpus_root, split, on_bad_image="skip"), str(sheet))
    counts, colours = count_split(name, corpus_root, split)
    problem = problem_of_colours(colours, split)
    if as_json:
        print_json(summarise(counts, colours) | {"problem": problem})
    else:
        print_counts(counts, colours)
    if problem:
        print(problem, file=sys.stderr)
        raise typer.Exit(1)


def push(
    name: NameArgument,
    repo_id: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Dataset repository, created if it is missing.")],
    corpus_root: CorpusRootOption = None,
    on_bad_image: OnBadImageOption = "error",
    num_people: NumPeopleOption = None,
    private: PrivateOption = False,
    dry_run: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write everything there, upload nothing.")
    ] = None,
    have_the_right: Annotated[
        bool, typer.Option("--i-have-the-right", help="You may pass on this licensed corpus.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Push a corpus to the Hub as parquet files.

    `load_dataset` and `--corpus shards` read them. The drawn corpus, synthetic, is everybody's. The pictures of the
    others belong to those who took them: they are refused unless you state that you have the right to pass them on.

    Examples:
      ivt corpus push synthetic ORG/NAME --private --num-people 2000
      ivt corpus push synthetic ORG/NAME --dry-run FOLDER
      ivt corpus push rstpreid ORG/NAME --corpus-root data/RSTPReid --private --i-have-the-right
    """
    from ivt.hub.push import push as push_corpus

    options = {"on_bad_image": on_bad_image, "num_people": num_people, "private": private}
    place = push_corpus(name, repo_id, corpus_root, dry_run=dry_run, have_the_right=have_the_right, **options)
    if as_json:
        print_json({"place": place, "uploaded": dry_run is None})
    else:
        print(f"written to {place}, nothing uploaded" if dry_run else place)


def shard(
    name: NameArgument,
    folder: Annotated[Path, typer.Argument(help="Where to write.")],
    corpus_root: CorpusRootOption = None,
    split: Annotated[
        list[str] | None, typer.Option(help="train, val or test; repeatable, by default all of them.")
    ] = None,
    format: Annotated[str, typer.Option(help="parquet or webdataset.")] = "parquet",
    rows_per_shard: Annotated[int, typer.Option(min=1, help="Pictures of a file, at most.")] = 2000,
    num_people: NumPeopleOption = None,
    seed: Annotated[int, typer.Option(help="Of the order of the rows.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Cut a corpus into shards, to train without holding it in memory.

    `ivt train --corpus shards --corpus_root FOLDER --streaming` reads them.

    Examples:
      ivt corpus shard cuhk-pedes FOLDER --corpus-root data/CUHK-PEDES
      ivt corpus shard synthetic FOLDER --format webdataset --num-people 4000 --split train --split val
    """
    from ivt.corpora.shard import shard_corpus

    options = {"format": format, "rows_per_shard": rows_per_shard, "num_people": num_people, "seed": seed}
    written = shard_corpus(name, folder, corpus_root, splits=split or OFFICIAL_SPLITS, **options)
    if as_json:
        print_json(written)
        return
    for name_of_split, sizes in written.items():
        print("{}: {pictures} pictures, {captions} captions in {shards} shards".format(name_of_split, **sizes))
