"""The page and the API's endpoints: they draw and pass on, and decide nothing."""
