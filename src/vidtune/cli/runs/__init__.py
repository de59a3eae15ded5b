"""Commands about stored runs: comparing and exporting them, files for servers, official evaluation folders."""
