"""What a sweep would do: every trial built, every file read, nothing trained."""
