"""`python -m stager` is `stage-image`."""

from stager.cli.main import main

raise SystemExit(main())
