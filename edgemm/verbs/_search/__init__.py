"""Parts of `edgemm search`: the search over trainings."""
