"""What `stage-image demo` needs to show itself on a machine that has nothing but Python."""
