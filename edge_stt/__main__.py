"""The ``edge-stt`` command, and ``python -m edge_stt``: Ctrl-C ends it silently, also while its modules load."""

try:
    from .exits import end_at_ctrl_c

    end_at_ctrl_c()
except KeyboardInterrupt:
    raise SystemExit(130) from None


def main() -> None:
    """Run the command line."""
    try:
        from .cli import main as run

        run()
    except KeyboardInterrupt:  # after the work, which has its own way of ending
        raise SystemExit(130) from None
    finally:
        end_at_ctrl_c()


if __name__ == "__main__":
    main()
