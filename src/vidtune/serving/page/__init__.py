"""The page at `/`: one file without dependencies that talks to the API."""
