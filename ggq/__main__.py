"""`python -m ggq` does what `ggq` does."""

from ggq.cli.entry import main

raise SystemExit(main())
