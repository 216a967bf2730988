"""Records of what was generated: the journal on this machine, and the dataset on the Hub that it is sent to."""
