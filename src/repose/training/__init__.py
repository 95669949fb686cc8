"""Training of model families on datasets (extra ``train``)."""
