throw new Error('an inert sample for a rule: nothing below this line ever runs')
fetch('http://203.0.113.7:8080/update')
