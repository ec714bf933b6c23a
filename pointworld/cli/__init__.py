"""Commands, one module each; the only place that names concrete classes of both packages."""
