raise SystemExit("an inert sample for a rule: nothing below this line ever runs")
os.remove(__file__)
