"""The plan of a sweep: all trials are built and all data is checked, before anything is trained."""
