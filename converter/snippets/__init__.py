"""The lines of a program that runs a file, in several languages."""
