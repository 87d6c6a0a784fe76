"""List the sections of a page by task, with links to their first blocks."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cosmos_eval.reporting.content import Content
from cosmos_eval.reporting.gallery.records import Gallery
from cosmos_eval.reporting.tables import ClassTable
from cosmos_eval.tasks import known_tasks


class SectionLink(NamedTuple):
    """The link from a task to a section of a page."""

    # The name of the task, such as "seg".
    task: str
    # The title of the section, such as "Samples".
    title: str
    # The id of the first block of the section that is about the task, such as "samples-3".
    anchor: str
    # The number of blocks of the section that are about the task.
    n_blocks: int


class _Block(NamedTuple):
    """A block of a section: one leaderboard, or the tables or examples of one data set."""

    task: str
    section: str
    # The id of the block on the page.
    anchor: str


def section_links(
    content: Content, class_tables: Sequence[ClassTable], gallery: Gallery
) -> list[SectionLink]:
    """Return the links from each task to the sections with blocks about it.

    Tasks are in the order of leaderboards, and the sections of a task in the order of the page.

    Example:
        A page with two tables of the classes of segmentation sets has the link
        SectionLink("seg", "Classes", "classes-1", 2).
    """
    blocks_by_link: dict[tuple[str, str], list[_Block]] = {}
    for block in _blocks(content, class_tables, gallery):
        blocks_by_link.setdefault((block.task, block.section), []).append(block)
    links = []
    for (task, section), blocks in blocks_by_link.items():
        links.append(SectionLink(task, section, blocks[0].anchor, len(blocks)))
    tasks = [*known_tasks(), *(link.task for link in links)]
    # The sort is stable, so that sections stay in order.
    return sorted(links, key=lambda link: tasks.index(link.task))


def _blocks(
    content: Content, class_tables: Sequence[ClassTable], gallery: Gallery
) -> Iterator[_Block]:
    """Yield the blocks of all sections, in the order of the page.

    A leaderboard with columns of several tasks is a block of each of them. Blocks of data sets
    without an entry, whose task is unknown, are left out.
    """
    task_by_set = {(entry.dataset, entry.protocol): entry.task for entry in content.entries}
    for number, board in enumerate(content.boards, start=1):
        entries = [entry for row in board.rows for entry in row.entries if entry is not None]
        for task in dict.fromkeys(entry.task for entry in entries):
            yield _Block(task, "Leaderboards", f"leaderboards-{number}")
    sets_by_section = {
        ("Caption length", "lengths"): content.lengths,
        ("Classes", "classes"): class_tables,
        ("Mistakes", "mistakes"): content.mistakes,
        ("Samples", "samples"): [section[0] for section in gallery.sections("samples")],
    }
    for (title, section_id), blocks in sets_by_section.items():
        for number, block in enumerate(blocks, start=1):
            task_of_block = task_by_set.get((block.dataset, block.protocol))
            if task_of_block is not None:
                yield _Block(task_of_block, title, f"{section_id}-{number}")
    for task, kind in (("seg", "segmentation"), ("retrieval", "retrieval")):
        for number in range(1, 1 + len(gallery.sections(kind))):
            yield _Block(task, "Examples", f"{kind}-{number}")
