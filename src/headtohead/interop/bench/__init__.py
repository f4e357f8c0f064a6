"""Speed, beside the programs that people use now: in one run, on one machine, in turns."""
