"""`longlive-rag license`: record the terms of weights, and report on a take's rights."""

from __future__ import annotations

import getpass
import json
from dataclasses import asdict
from pathlib import Path

import click

from longlive_rag.cli.errors import check_writable, refuse_bad_input
from longlive_rag.cli.settings import FLAGS


@click.group()
def license() -> None:
    """Record, show and report the terms of weights.

    \b
    Examples:
      longlive-rag license record models/wan --spdx Apache-2.0 --source https://huggingface.co/Wan-AI --by "J. Doe"
      longlive-rag license show models/wan
      longlive-rag license report takes/first
    """


@license.command()
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--spdx", required=True, metavar="ID", help="SPDX id or expression; LicenseRef-NAME for other terms.")
@click.option("--source", required=True, metavar="WHERE", help="Where the terms are stated: a URL or a contract.")
@click.option("--by", metavar="NAME", help="Who looked them up.  [default: the logged-in user]")
@click.option(
    "--use", type=click.Choice(["research", "commercial"]), help="What the terms allow, if their SPDX id is unknown."
)
@click.option(
    "--on", "looked_up_on", metavar="DAY", help="When they were looked up, such as 2026-01-31.  [default: today]"
)
@click.option("--expires", metavar="DAY", help="Last day on which this record is valid.")
@click.option("--evidence", type=click.Path(path_type=Path), help="File that shows the terms; a copy is kept.")
def record(
    paths: tuple[Path, ...],
    spdx: str,
    source: str,
    by: str | None,
    use: str | None,
    looked_up_on: str | None,
    expires: str | None,
    evidence: Path | None,
) -> None:
    """Record the terms of weight files, given as files or folders.

    The record is bound to the files' hashes: if a file changes, its record becomes void.

    \b
    Examples:
      longlive-rag license record models/wan --spdx Apache-2.0 --source https://huggingface.co/Wan-AI --by "J. Doe"
      Record a grant that you hold:
        longlive-rag license record models/x/model.pt --spdx LicenseRef-Grant-7 --use commercial \\
          --source "contract 7 of 2026-03-01" --evidence grant.pdf --by "J. Doe" --expires 2027-03-01
    """
    from longlive_rag.rights.records import files_to_record, folder_of, record_terms
    from longlive_rag.rights.spdx import allowed_use

    with refuse_bad_input(FLAGS):
        who = _who_is_logged_in() if by is None else by
        for path in paths:
            files_to_record(path)
        for path in paths:
            files = record_terms(
                path,
                spdx,
                source,
                who,
                use=use,  # type: ignore[arg-type]
                looked_up_on=looked_up_on,
                expires=expires,
                evidence=evidence,
            )
            for file in files:
                allows = use or allowed_use(spdx)
                click.echo(f"{folder_of(path) / file}: {spdx}, allows {allows} use, looked up by {who}")


def _who_is_logged_in() -> str:
    """The user's name; ValueError if the system has none, as in some containers."""
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:
        raise ValueError("the logged-in user has no name; say who looked up the terms with --by NAME") from error


@license.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def show(path: Path, as_json: bool) -> None:
    """Show the recorded terms of weight files.

    PATH is a weight file, a folder of them, or the name of a backbone that is here.

    \b
    Examples:
      longlive-rag license show models/wan
      longlive-rag license show tiny-world
    """
    from longlive_rag.presets.catalogue import known_names
    from longlive_rag.presets.preset import find_folder
    from longlive_rag.rights.records import rights_of

    with refuse_bad_input():
        if not path.exists() and str(path) in known_names():
            path = find_folder(str(path))
        if not path.exists():
            raise ValueError(f"{path} does not exist; name a folder, a weight file or a backbone of 'models list'")
        rights = rights_of(path)
    if as_json:
        click.echo(json.dumps([asdict(file) for file in rights], indent=2, ensure_ascii=False))
        return
    for file in rights:
        click.echo(f"{file.use:<11} {file.file}: {file.in_words}")
    if not rights:
        click.echo(f"{path} holds no weight files")


@license.command()
@click.argument("take", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the report here instead of printing it.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON instead of text.")
@click.option("--spdx", "as_spdx", is_flag=True, help="Write an SPDX 2.3 bill of materials (JSON) instead of text.")
def report(take: Path, output: Path | None, as_json: bool, as_spdx: bool) -> None:
    """Report what a take may be used for, and why.

    The report lists the weight files with their terms, sources, dates and hashes, the video's encoder and hash, and
    the installed libraries with their licences.

    \b
    Examples:
      longlive-rag license report takes/first
      longlive-rag license report takes/first -o rights.md
      longlive-rag license report takes/first --spdx -o takes/first.spdx.json
    """
    from longlive_rag.cli.output import shown
    from longlive_rag.rights.bill import spdx_document
    from longlive_rag.takes.rights_report import facts, page
    from retrieval.files import write_whole

    with refuse_bad_input():
        if as_json and as_spdx:
            raise ValueError("--json and --spdx are different formats; choose one")
        check_writable(output)
        found = facts(take)
        plain = spdx_document(found) if as_spdx else found
        text = json.dumps(plain, indent=2, ensure_ascii=False) + "\n" if as_json or as_spdx else page(found)
        if output is not None:
            write_whole(output, shown(text).encode())
    click.echo(str(output) if output is not None else text, nl=output is not None)
