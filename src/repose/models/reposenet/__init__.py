"""ReposeNet: relaxation that does not depend on how a crystal is written."""
