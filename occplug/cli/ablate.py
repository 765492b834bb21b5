"""`occplug ablate`: one table of a paper, rows x seeds, on the data set and backbone of a config.

Runs go to `SAVE_DIR/<config>/<table>/<row>/seed<k>`. One that is complete is read, also from another table of SAVE_DIR
if that has a row with the same settings; one that was interrupted goes on. With `--keep DIR` figures of every run are
kept in DIR as well, without weights, and taken from there in place of a training.
"""

from __future__ import annotations

from pathlib import Path

from occplug import _moved
from occplug.cli.arguments import add_table_options, config_parser, parse_options, table_command
from occplug.utils.files import user_path

__all__ = ["main"]

__getattr__ = _moved.older_names(__name__)


def main(argv: list[str]) -> None:
    """Parse `argv`, run and print."""
    parser = config_parser("ablate", "Train the rows of one ablation table over several seeds.")
    parser.add_argument("--table", required=True, metavar="NAME", help="a table of configs/ablations/<method>.yaml")
    parser.add_argument("--rows", nargs="+", metavar="R", help="only these rows")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 1..N of each row (3)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time (1)")
    parser.add_argument("--save-dir", type=user_path, default=Path("log/ablate"), metavar="DIR", help="log/ablate")
    parser.add_argument("--tables", type=user_path, metavar="FILE", help="another file of tables")
    add_table_options(parser)
    parser.add_argument(
        "--readme", type=user_path, metavar="FILE", help="put the table between this command's marks in FILE"
    )
    args, options = parse_options(parser, argv)

    from occplug.config import find_config
    from occplug.experiments.ablating import ablate
    from occplug.experiments.drawing import draw_report
    from occplug.experiments.markdown import check_marks

    config_file = find_config(args.config_file)
    mark = f"ablate {config_file.stem} {args.table}"
    if args.readme is not None:
        check_marks(args.readme, mark)  # before anything is trained
    report = ablate(
        config_file,
        args.table,
        options,
        args.rows,
        args.save_dir,
        args.seeds,
        args.jobs,
        args.keep,
        args.tables,
        table_command("python tools/ablate.py", argv),
        not args.no_training,
    )
    print(f"\n{report.title}\n\n{report.markdown()}")
    figure = None if args.figure is None else draw_report(report, args.figure)
    print(f"\nreport: {report.write(args.readme, mark, figure)}")
