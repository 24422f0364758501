"""Training on a workstation: manifests → prepared features → a CTC model in Keras. Works from a checkout."""
