"""The pretokenizer: conversations -> indexed binary shards.

    python -m pretokenizer build --configs oasst_pre10_min25 llama2 [--data_dir D] [--output_dir O] [--KEY VALUE ...]
    python -m pretokenizer merge PART_DIR... --output_dir O
    python -m pretokenizer inspect PREFIX [--num N] [--plain]
    python -m pretokenizer check DIR_OR_PREFIX

Exit status: 0 done, 1 bad data or files, 2 bad usage or configuration.
"""

import os
import sys

from pretokenizer.command_line import UsageError, run_command
from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.files.publish import forbid_world_writable


def main(arguments: list[str] | None = None) -> int:
    """Run one command; errors for users are printed without a traceback."""
    forbid_world_writable()
    try:
        return run_command(sys.argv[1:] if arguments is None else arguments)
    except (UsageError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (ValueError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed there
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
