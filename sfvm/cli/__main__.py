"""``python -m sfvm.cli``."""

import sys

from sfvm.cli import main

sys.exit(main())
