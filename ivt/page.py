"""The demo page: describe a person, see who fits best, and where the model looked.

    ivt serve [--model FOLDER_OR_NAME] [--people FOLDER] [--port 7860]

It opens with the bundled checkpoint and a small gallery of the drawn corpus (`ivt/people/`, a folder per camera:
people of the test split, whom the model never saw). A visitor's own crops become a gallery that only their session
sees and that is deleted with it. Needs the extras `space` and `search`.
"""

import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from processing.pictures import UnreadablePicture, read_picture

from .explanations.attention import explain
from .explanations.colours import COLOURS
from .explanations.maps import known_methods
from .gallery.gallery import Gallery
from .gallery.path_fields import PathFields
from .gallery.results import SearchResults
from .gallery.store import any_of
from .retrieval.models import DEFAULT_MODEL, load_model

PEOPLE = Path(__file__).resolve().parent / "people"
NUM_RESULTS = 10
MAX_FILES = 500  # of one upload
MAX_BYTES = 10_000_000  # of one picture
SESSION_SECONDS = 3600  # how long an uploaded gallery is kept
MAX_WAITING = 100  # searches and maps that wait for their turn; whoever comes then is told that the page is busy
WHOLE_SENTENCE = "the whole sentence"
EXAMPLES = [
    "A woman with long hair wears a pink t-shirt, black shorts and black shoes.",
    "A man in a white coat over blue pants, with a black backpack.",
    "The person wears a red knit cap, a blue hoodie, jeans and gray boots.",
]
INTRODUCTION = """# Find a person from a sentence
IVT ranks pictures of people by how well a description fits them. These people are drawn, not photographed.
A high rank is a hint for a human reader and never evidence: the model always returns somebody.
"""
# pictures whole and captions below them, not one over the other
CSS = """
.people .grid-wrap, #map .image-container { padding-top: 2.8rem; }
.people .grid-wrap { height: auto; max-height: none; overflow: visible; }
.people .grid-container { grid-template-columns: repeat(5, minmax(0, 1fr)) !important; }
.people .gallery-item { height: auto; }
.people .thumbnail-item { display: flex; flex-direction: column; height: auto; aspect-ratio: auto; }
.people .thumbnail-item img { height: auto; aspect-ratio: 2 / 5; }
.people .caption-label { position: static; max-width: 100%; white-space: normal; }
@media (max-width: 640px) {
  .people .grid-container { grid-template-columns: repeat(3, minmax(0, 1fr)) !important; }
  #map .image-container { overflow-x: auto; padding-top: 4rem; }
  #map button, #map .image-frame { justify-content: flex-start; }
  #map img { max-width: none; width: 40rem; }
}
"""


@dataclass
class Session:
    """What one visitor sees: a gallery, and what the last search of each side found."""

    uri: str
    folder: Path | None = None  # of an uploaded gallery, deleted with the session
    found: list[SearchResults | None] = field(default_factory=lambda: [None, None])

    def results(self, side: int) -> SearchResults:
        """What the last search of a side found; raises gr.Error if there was none in this gallery."""
        results = self.found[side]
        if results is None:
            raise gr.Error("Search this gallery first.")
        return results

    def close(self) -> None:
        """Delete the pictures that were uploaded."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def as_text(name: str) -> str:
    """A name as Markdown that shows it as it is: no HTML, no emphasis, no links."""
    return re.sub(r"([\\`*_{}\[\]<>&#~|$])", r"\\\1", " ".join(name.split()))


def cameras_of(gallery: Gallery) -> list[str]:
    """Names of the cameras in a gallery, in order."""
    return sorted({picture.camera for picture in gallery if picture.camera})


def captioned(results: SearchResults) -> list[tuple[Image.Image, str]]:
    """Pictures with place, score and camera, as the page shows them."""
    captions = [
        f"{place}. {result.score:.2f}" + (f", {result.camera}" if result.camera else "")
        for place, result in enumerate(results, start=1)
    ]
    return list(zip(results.images(), captions, strict=True))


def search(session: Session, query: str, other_query: str, cameras: Sequence[str]) -> tuple[Any, ...]:
    """Answer one query, or two side by side.

    Returns:
        The session, people of the first and of the second query, and a line that says what was done.
    """
    if not query.strip():
        raise gr.Error("Describe the person first, for example: " + EXAMPLES[0])
    gallery = Gallery(session.uri)
    where = any_of("camera", cameras) if cameras else None
    sides = []
    for side, text in enumerate((query, other_query)):
        if text.strip():
            session.found[side] = results = gallery.search(text, NUM_RESULTS, where)
            sides.append(gr.Gallery(captioned(results), label=f"“{text.strip()}”", visible=True))
        else:
            session.found[side] = None
            sides.append(gr.Gallery([], label="No second query", visible=False))
    cameras_said = f"camera {', '.join(map(as_text, cameras))}" if cameras else "all cameras"
    return session, *sides, f"{len(session.results(0))} people of {len(gallery)} pictures, {cameras_said}. Choose one."


def chosen_words(session: Session, side: int, event: gr.SelectData) -> tuple[Any, ...]:
    """Offer the words of the query whose result was clicked, and show where its whole sentence looks."""
    results = session.results(side)
    words = list(dict.fromkeys(word.strip(".,;:!?") for word in results.query.split()))
    choice = gr.Radio([WHOLE_SENTENCE, *filter(None, words)], value=WHOLE_SENTENCE, visible=True)
    chosen = (side, event.index)
    return chosen, choice, show_map(session, chosen, WHOLE_SENTENCE)


def show_map(session: Session, chosen: tuple[int, int] | None, word: str) -> Any:
    """Draw where the model looks in the chosen picture for the sentence or a word of it."""
    if chosen is None:
        raise gr.Error("Choose one of the people found first.")
    results, place = session.results(chosen[0]), chosen[1]
    image = results[place : place + 1].images()[0]
    model, processor = load_model(Gallery(session.uri).model_version)
    asked = None if word == WHOLE_SENTENCE else word
    explanation = explain(model, processor, image, results.query, asked, known_methods(model)[0], colours=COLOURS)
    return gr.Image(explanation.draw(), label=f"Where the model looked in number {place + 1} for {word}", visible=True)


def problem_of(path: Path) -> str | None:
    """Why an uploaded file is refused, or None."""
    if path.stat().st_size > MAX_BYTES:
        return f"is larger than {MAX_BYTES // 1_000_000} MB"
    try:
        read_picture(path)
    except UnreadablePicture:
        return "is no picture that can be read"
    return None


def delete_copies(paths: Sequence[Path]) -> None:
    """Delete the files that Gradio keeps of an upload, which it would hand to anybody who knows their path."""
    kept = Path(get_upload_folder()).resolve()
    for path in paths:
        if path.resolve().is_relative_to(kept):
            path.unlink(missing_ok=True)


def upload(session: Session, files: Sequence[str] | None) -> tuple[Any, ...]:
    """Make a visitor's pictures the gallery of their session; refuse an upload without any that can be read."""
    paths = [Path(name) for name in files or []]
    # by their whole paths: in subfolders there may be others of the same name
    problems = {path: problem for path in paths[:MAX_FILES] if (problem := problem_of(path))}
    good = [path for path in paths[:MAX_FILES] if path not in problems]
    refused = "; ".join(f"{as_text(path.name)} {problem}" for path, problem in list(problems.items())[:5])
    if not good:
        delete_copies(paths)
        message = f"Nothing was uploaded: {refused or 'the folder is empty'}. The gallery is still the old one."
        return session, gr.CheckboxGroup(), message
    folder = Path(tempfile.mkdtemp(prefix="ivt-upload-"))
    for number, path in enumerate(good):
        shutil.copy(path, folder / f"{number:03d}-{path.name}")
    gallery = Gallery(folder / "people.lance", Gallery(session.uri).model_version.name)
    report = gallery.add(folder, progress=False)
    session.close()
    delete_copies(paths)
    left_out = f" Left out: {refused}." if problems else ""
    if len(paths) > MAX_FILES:
        left_out += f" Only the first {MAX_FILES} files were taken."
    message = f"Your gallery has {report.added} pictures. It is deleted when you leave.{left_out}"
    return Session(str(folder / "people.lance"), folder), gr.CheckboxGroup([], value=[], visible=False), message


def build_page(gallery: Gallery) -> gr.Blocks:
    """Lay out the page over a gallery that all visitors share until they upload their own."""
    cameras, uri = cameras_of(gallery), gallery.store.uri

    # analytics: Gradio would report every start to its makers
    with gr.Blocks(
        title="IVT: find a person from a sentence",
        analytics_enabled=False,
        delete_cache=(SESSION_SECONDS, SESSION_SECONDS),
    ) as page:
        session = gr.State(
            lambda: Session(uri), time_to_live=SESSION_SECONDS, delete_callback=lambda session: session.close()
        )
        chosen = gr.State(None)
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            query = gr.Textbox(
                label="Describe a person", placeholder=EXAMPLES[0], autofocus=True, min_width=300, elem_id="query"
            )
            other_query = gr.Textbox(
                label="Compare with another description (optional)", min_width=300, elem_id="other-query"
            )
        with gr.Row():
            camera_filter = gr.CheckboxGroup(
                cameras, label="Cameras (none ticked: all)", visible=bool(cameras), elem_id="cameras"
            )
            button = gr.Button("Search", variant="primary", scale=0, min_width=160, elem_id="search")
        gr.Examples(EXAMPLES, query, label="Examples")
        status = gr.Markdown(elem_id="status")
        with gr.Row():
            people = [
                gr.Gallery(
                    label=label,
                    visible=visible,
                    columns=5,
                    allow_preview=False,
                    object_fit="contain",
                    min_width=300,
                    elem_id=elem_id,
                    elem_classes="people",
                )
                for label, visible, elem_id in (
                    ("People found, best first", True, "people"),
                    ("No second query", False, "other-people"),
                )
            ]
        words = gr.Radio([], label="Where did the model look for …", visible=False, elem_id="words")
        picture = gr.Image(label="Where the model looked", visible=False, interactive=False, elem_id="map")
        with gr.Accordion("Search your own pictures", open=False):
            gr.Markdown(
                "Choose a folder of person crops, one person a picture. They stay in this session, nobody else sees "
                "them, and they are deleted with it. Upload only pictures that you have the right to search."
            )
            files = gr.File(label="Folder of person crops", file_count="directory", elem_id="files")
            upload_status = gr.Markdown(elem_id="upload-status")

        inputs, outputs = [session, query, other_query, camera_filter], [session, *people, status]
        for trigger in (button.click, query.submit, other_query.submit):
            trigger(search, inputs, outputs)
        for side in (0, 1):

            def choose(session: Session, event: gr.SelectData, side: int = side) -> tuple[Any, ...]:
                return chosen_words(session, side, event)

            people[side].select(choose, session, [chosen, words, picture])
        words.input(show_map, [session, chosen, words], picture)
        files.upload(upload, [session, files], [session, camera_filter, upload_status])
    return page.queue(max_size=MAX_WAITING)


def open_gallery(model: str, people: Path, uri: Path) -> Gallery:
    """Index a folder of pictures, a folder per camera, unless that was done before."""
    gallery = Gallery(uri, model)
    gallery.add(people, path_fields=PathFields(camera=r"^([^/]+)/"), progress=False)
    return gallery


def serve(model: str = DEFAULT_MODEL, people: Path = PEOPLE, port: int = 7860) -> None:
    """Serve the page until the process is ended; then nothing of what it wrote is left.

    Args:
        model: folder or Hub name.
        people: pictures to search, a folder per camera.
        port: of the web server.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # by default nothing is cleaned up
    with tempfile.TemporaryDirectory(prefix="ivt-space-") as folder:
        tempfile.tempdir = folder  # of uploads, and of all that Gradio keeps
        page = build_page(open_gallery(model, people, Path(folder) / "people.lance"))
        try:
            page.launch(server_port=port, css=CSS, theme=gr.themes.Soft(), quiet=True, max_file_size=MAX_BYTES)
        finally:
            page.close()
