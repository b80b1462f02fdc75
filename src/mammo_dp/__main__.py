import sys

from mammo_dp.cli import main

sys.exit(main())
