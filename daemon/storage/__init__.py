"""Pictures: checked, converted, and written once into the object store."""
