"""Commands about stored runs: files for servers, official evaluation folders."""
