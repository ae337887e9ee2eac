"""The command line: one thin module per verb, one error boundary, one place where objects are put together."""
