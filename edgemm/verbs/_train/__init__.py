"""Parts of `edgemm train`: one training, several in folds, what is told of them."""
