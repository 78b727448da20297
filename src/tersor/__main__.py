"""`python -m tersor`."""

from tersor.cli import main

raise SystemExit(main())
