raise SystemExit("an inert sample for a rule: nothing below this line ever runs")
urlopen("http://169.254.169.254/latest/meta-data/iam/security-credentials/")
