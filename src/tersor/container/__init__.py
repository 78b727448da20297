"""The `.tsr` file: its parts, its writer and its reader. `docs/format.md` is the specification."""
