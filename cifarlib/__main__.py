"""Let ``python -m cifarlib`` do what ``cifarlib`` does."""

from cifarlib.cli import main

raise SystemExit(main())
