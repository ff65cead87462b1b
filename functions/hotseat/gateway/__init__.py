"""HTTP: the inference and operations APIs, authentication, errors, and the relay to engines."""
