"""What all clients share: the parts of an exchange's life that know no client's name."""
