"""What users may ask for: the parameters of a job, how their values are written, and what is said about wrong ones."""
