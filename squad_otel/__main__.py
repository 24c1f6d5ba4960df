"""`python -m squad_otel` is `squad-otel`."""

from squad_otel.cli import main

main()
