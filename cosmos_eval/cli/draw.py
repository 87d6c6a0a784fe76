"""`cosmos-eval attend` and `cosmos-eval segment`: pictures of what a model sees in an image."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument

from cosmos_eval.cli import options
from cosmos_eval.cli.completion import dataset_names, model_names, protocol_names
from cosmos_eval.cli.options import File, Text, Texts, option, output_file
from cosmos_eval.cli.output import print_json, print_line, print_notes, print_records, print_written
from cosmos_eval.types import MapName, ModelSpec, RunOptions, UsageError


def attend(
    image: Annotated[File, Argument(help="An image file.", show_default=False)] = None,
    text: Annotated[Texts, option("TEXT", "What to look for; repeatable, one row each.")] = None,
    csv: Annotated[File, option("FILE", "In place of IMAGE and --text: a table of both.")] = None,
    output: Annotated[Path, output_file("FILE", "A .png, .svg or .html picture.")] = Path(
        "attention.png"
    ),
    model: Annotated[
        Texts,
        option(
            "SPEC",
            "A model; repeatable, one column each. Default: scenes-cosmos.",
            autocompletion=model_names,
        ),
    ] = None,
    format: options.Format = "table",
    kind: Annotated[
        Literal[MapName, "both"] | None,
        option(
            "NAME",
            "cross-attention, empty-ratio, texts-ratio, values or similarity; both: the first and "
            "the last. Default: values, or similarity where a model has no cross-attention.",
            "Maps",
        ),
    ] = None,
    heads: Annotated[
        Literal["mean", "each"], option("NAME", "mean or each of cross-attention.", "Maps")
    ] = "mean",
    attention: options.Attention = None,
    arch: options.Arch = None,
    weights: options.Weights = ModelSpec.weights,
    precision: options.Precision = RunOptions.precision,
    device: options.Device = RunOptions.device,
) -> None:
    """Draw where a model looks in an image, given a text.

    Cross-attention also looks in the text, given the image.
    """
    from cosmos_eval.models.specs import parse_model_spec

    models = model or ["scenes-cosmos"]
    specs = [parse_model_spec(name, arch=arch, weights=weights) for name in models]
    # Imported after the names of the models are checked, since this imports torch.
    from cosmos_eval.reporting.attention import draw
    from cosmos_eval.reporting.attention.compute import AttendOptions, read_pairs
    from cosmos_eval.reporting.attention.describe import map_table, notes, to_records, word_tables

    attend_options = AttendOptions(
        kind=kind, heads=heads, attention=attention, device=device, precision=precision
    )
    rows = draw(read_pairs(image, text or [], csv), specs, attend_options, output)
    if format == "json":
        print_json(to_records(rows))
    else:
        print_records(map_table(rows))
        if len(rows) == 1:
            for table in word_tables(rows[0]):
                print_line("")
                print_records(table)
    print_notes(notes(rows, output))
    print_written(output)


def segment(
    image: Annotated[Path, Argument(help="An image file.", show_default=False)],
    output: Annotated[Path, output_file("FILE", "A .png picture.")] = Path("segmented.png"),
    dataset: Annotated[
        str, option("NAME|FILE", "Data set of classes and settings.", autocompletion=dataset_names)
    ] = "scenes-seg",
    classes: Annotated[Text, option("NAME,...", "Other classes than the data set's.")] = None,
    protocol: Annotated[
        Text, option("NAME", "A protocol of the data set.", autocompletion=protocol_names)
    ] = None,
    model: options.Model = "scenes-cosmos",
    format: options.Format = "table",
    arch: options.Arch = None,
    weights: options.Weights = ModelSpec.weights,
    attention: options.Attention = None,
    auxiliary: options.Auxiliary = None,
    precision: options.Precision = RunOptions.precision,
    device: options.Device = RunOptions.device,
) -> None:
    """Draw the segmentation of one image: image, label map, legend."""
    from cosmos_eval.models.specs import parse_model_spec
    from cosmos_eval.tasks import find_protocol

    dataset_protocol = find_protocol(dataset, protocol)
    spec = parse_model_spec(model, arch=arch, weights=weights)
    # Imported after all names are checked, since this imports torch.
    from cosmos_eval.reporting.segment import segment as draw
    from cosmos_eval.results.text import percent

    class_names: tuple[str, ...] = ()
    if classes is not None:
        class_names = tuple(name.strip() for name in classes.split(","))
        if "" in class_names:
            raise UsageError(f"--classes {classes!r} has an empty name: separate names by commas")
    run_options = RunOptions(
        attention=attention, auxiliary=auxiliary, device=device, precision=precision
    )
    pixel_fractions = draw(
        image,
        output,
        spec=spec,
        protocol=dataset_protocol,
        classes=class_names,
        options=run_options,
    )
    if format == "json":
        print_json(pixel_fractions)
    else:
        records = []
        for name, fraction in pixel_fractions.items():
            records.append({"class": name, "pixels (%)": str(percent(fraction))})
        print_records(records)
    print_written(output)
