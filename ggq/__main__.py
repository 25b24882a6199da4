"""`python -m ggq` does what `ggq` does."""

from ggq.cli.main import main

raise SystemExit(main())
