"""Data and results in object stores: `s3://` addresses, fetched, kept and sent safely."""
