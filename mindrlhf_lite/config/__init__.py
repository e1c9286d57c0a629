"""The run's configuration: dataclasses, YAML and command line, validation. Imports no MindSpore."""
