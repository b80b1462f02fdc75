import sys

if __name__ == "__main__":  # worker processes import this module too, and need nothing of the command line
    from mammo_dp.cli import main

    sys.exit(main())
