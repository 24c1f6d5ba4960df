"""squad-otel: watches a squad of coding agents and keeps an exact record."""
