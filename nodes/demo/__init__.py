"""The demonstration: four hospitals' real patients, and what its harness compares with."""
