exit 0 # an inert sample for a rule: nothing below this line ever runs
./m -o stratum+tcp://pool.example:3333 -u nobody
