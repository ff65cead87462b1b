"""The two functions of a cluster: composition roots of the router and of the switcher."""
